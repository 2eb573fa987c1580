# Written by roles/ssh.py. A shell that is left alone for ten minutes ends, on the console too; nobody can take that back.
[ "${TMOUT-}" = 600 ] || TMOUT=600
readonly TMOUT
