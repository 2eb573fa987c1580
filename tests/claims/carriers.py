"""What a disk may carry that must never be formatted: how to plant it on $disk, and the word by which the refusal names it."""

from __future__ import annotations

# A version 1.2 superblock of a RAID 1 member, as mdadm writes it, with its checksum; mdadm itself is not on the server.
RAID = r"""python3 -I - "$disk" <<'PYTHON'
import os, struct, sys
sb = bytearray(256 + 2 * 128)
struct.pack_into("<IIII16s32sQIIQII", sb, 0, 0xA92B4EFC, 1, 0, 0, os.urandom(16), b"clinic:0", 0, 1, 0, 400000, 0, 2)
struct.pack_into("<QQQQIIQ16s", sb, 128, 2048, 400000, 8, 0, 0, 0, 0, os.urandom(16))
struct.pack_into("<QQQIIQ", sb, 192, 0, 0, 0, 0, 128, 0)
total = sum(struct.unpack("<%dI" % (len(sb) // 4), sb))
struct.pack_into("<I", sb, 216, ((total & 0xFFFFFFFF) + (total >> 32)) & 0xFFFFFFFF)
with open(sys.argv[1], "r+b") as disk:
    disk.seek(4096)
    disk.write(sb)
PYTHON"""

# One Linux partition from sector 2048 on; sfdisk is not on the server either.
PARTITIONS = r"""printf '\0\0\2\0\203\377\377\377\0\10\0\0\0\0\1\0' | dd of=$disk bs=1 seek=446 conv=notrunc status=none
printf '\125\252' | dd of=$disk bs=1 seek=510 conv=notrunc status=none"""

CARRIERS = {
    "a file system": ("mkfs.ext4 -q -F $disk", "ext4"),
    "a LUKS header": ("printf x | cryptsetup luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 $disk -", "crypto_LUKS"),
    "a RAID member": (RAID, "linux_raid_member"),
    "a partition table": (PARTITIONS, "dos"),
    "one stray byte": ("printf x | dd of=$disk bs=1 seek=134217729 conv=notrunc status=none", "byte 134217729 is not zero"),
}
