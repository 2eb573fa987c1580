# set_aside PATH…: copies what lies there, unless the last deploy left it so, before something else takes its place. What somebody wrote
# by hand may hold anything: the copy is for root alone, and on the encrypted volume as soon as there is one.
set_aside() {
	for path; do
		{ test -e "$path" || test -L "$path"; } || continue
		known=/etc/cabinet/manifest
		test -e $known || known=/dev/null
		# sha256sum writes a line as it stands in the manifest: a path comes behind 66 characters. Here it begins below /.
		altered=$(find "$path" -type f -exec sha256sum {} + | grep -vxFf $known | cut -c 68-; find "$path" -type l | cut -c 2-)
		test -n "$altered" || continue
		copies=/var/lib/cabinet/set-aside/$(date --utc +%Y-%m-%dT%H%M%S)
		mkdir -p -m 700 /var/lib/cabinet/set-aside && mkdir -p "$copies" &&
			printf '%s\n' "$altered" | (cd / && xargs -d '\n' cp -a --parents --target-directory="$copies" --) || return 1
	done
}
