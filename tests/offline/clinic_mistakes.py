"""A good clinic file, and every way in which it was made a bad one: one mistake each, and all that is said about it."""

from __future__ import annotations

import base64

AMINA = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBxo3nWP2y4JfXyuoUp+WAiU2KTe8gDqHZ1zdhCsvcl/ amina"
KARIM = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB++/nDNNpf4W3/8/B/RL6KdY+TRdv7O9TdS7Q7FAjTM karim"
PHONE = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
LAPTOP = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0="

GOOD = f"""\
practice: Cabinet Haddad
contact:
  responsible: Dr Amina Haddad
  practice_phone: "+213 21 12 34 56"
  vendor: Atlas Informatique
  vendor_phone: "+213 21 65 43 21"
hostname: practice.haddad.example
timezone: Africa/Algiers
connect: {{host: 192.168.10.5, bootstrap_user: installer}}
network:
  internet: {{interface: enp1s0}}
  lan:
    interface: enp2s0
    address: 192.168.10.5/24
    address6: "fd12::5/64"
  management: [192.168.10.0/28]
  resolvers: [192.168.10.1]
  published:
    ssh: [management]
people:
  - name: amina
    full_name: Dr Amina Haddad
    profile: doctor
    keys: [{AMINA}]
  - name: karim
    full_name: Karim Meziane
    profile: technician
    keys: [{KARIM}]
    login: true
storage:
  disk: S5GXNX0R123456
backup:
  disk: WD-WX12A3456789
  full: "Sun 01:30"
  differential: "22:30"
  keep_days: 35
proxy:
  names: [practice.haddad.example]
  upstream: http://127.0.0.1:8080
database: {{name: dossier, owner: dossier}}
alarm:
  mail: {{to: [garde@haddad.example], sender: server@haddad.example, host: mail.haddad.example, port: 587}}
  webhook: {{url: https://alarms.example/haddad}}
vpn:
  endpoint: vpn.haddad.example
  network: 10.71.0.0/24
  peers:
    - {{person: amina, device: phone, address: 10.71.0.1, public_key: {PHONE}}}
    - {{person: karim, device: laptop, address: 10.71.0.2, public_key: {LAPTOP}}}
"""


def wire(*fields: bytes) -> str:
    """Fields in the wire format of SSH, in base64."""
    return base64.b64encode(b"".join(len(field).to_bytes(4, "big") + field for field in fields)).decode()


RSA_2048 = "ssh-rsa " + wire(b"ssh-rsa", b"\x01\x00\x01", b"\x00" + b"\xff" * 256)
RSA_3072 = "ssh-rsa " + wire(b"ssh-rsa", b"\x01\x00\x01", b"\x00" + b"\xff" * 384)
SECURITY_KEY = "sk-ssh-ed25519@openssh.com " + wire(b"sk-ssh-ed25519@openssh.com", b"k" * 32, b"ssh:") + " token"
MISLABELLED = "ssh-ed25519 " + wire(b"ssh-rsa", b"\x01\x00\x01", b"\x00" + b"\xff" * 384)

# One mistake each: what is replaced in GOOD, by what, and what is said. The line number counts in the changed text.
MISTAKES: dict[str, tuple[str, str, str]] = {
    "typo in a key": ("keep_days: 35", "keep_daly: 35", "36: backup.keep_daly: unknown key; did you mean keep_days?"),
    "typo at the top": ("timezone: Africa", "timezon: Africa", "8: timezon: unknown key; did you mean timezone?"),
    "typo in a key of a person": ("    login: true", "    logni: true", "29: people[1].logni: unknown key; did you mean login?"),
    "key in the wrong section": (
        "  disk: S5GXNX0R123456",
        "  disk: S5GXNX0R123456\n  keep_days: 35",
        "32: storage.keep_days: unknown key; known here: disk, wipe, unlock, mirror",
    ),
    "missing key": ("  vendor: Atlas Informatique\n", "", "2: contact.vendor: is missing; for example: Atlas Informatique"),
    "missing section": ("storage:\n  disk: S5GXNX0R123456\n", "", "1: storage: is missing; it needs disk"),
    "missing connect": (
        "connect: {host: 192.168.10.5, bootstrap_user: installer}\n",
        "",
        "1: connect: is missing; for example: {host: 192.168.10.5, bootstrap_user: installer}",
    ),
    "missing people": (
        GOOD[GOOD.index("people:") : GOOD.index("storage:")],
        "",
        '1: people: is missing; for example: [{name: karim, full_name: Karim Meziane, profile: technician, keys: ["ssh-ed25519 …"]}]',
    ),
    "number for a word": ("practice: Cabinet Haddad", "practice: 24", '1: practice: a text is expected; write "24"'),
    "word for a number": (
        "keep_days: 35",
        "keep_days: a month",
        "36: backup.keep_days: a whole number without quotes is expected, not a month",
    ),
    "quoted number": ("keep_days: 35", 'keep_days: "35"', '36: backup.keep_days: a whole number without quotes is expected, not "35"'),
    "fraction": ("keep_days: 35", "keep_days: 35.5", "36: backup.keep_days: a whole number without quotes is expected, not 35.5"),
    "empty value": ("timezone: Africa/Algiers", "timezone:", "8: timezone: has no value; a text is expected"),
    "empty section": (
        "  disk: S5GXNX0R123456\n",
        "",
        "30: storage: has no value; keys with values are expected here, indented, one per line",
    ),
    "word for a section": (
        "database: {name: dossier, owner: dossier}",
        "database: dossier",
        "40: database: keys with values are expected here, indented, one per line",
    ),
    "word for a list": (
        "names: [practice.haddad.example]",
        "names: practice.haddad.example",
        "38: proxy.names: a list is expected; write [one, two], or one per line after a dash",
    ),
    "empty list": ("resolvers: [192.168.10.1]", "resolvers: []", "17: network.resolvers: at least one is needed"),
    "unquoted time": ('"22:30"', "22:30", '35: backup.differential: YAML reads 22:30 without quotes as the number 1350; write "22:30"'),
    "unquoted no": (
        "practice: Cabinet Haddad",
        "practice: no",
        '1: practice: YAML reads no without quotes as false; write "no" for the word, or false',
    ),
    "yes for true": (
        "login: true",
        "login: yes",
        '29: people[1].login: YAML reads yes without quotes as true; write "yes" for the word, or true',
    ),
    "quoted true": ("login: true", 'login: "true"', '29: people[1].login: true or false without quotes is expected, not "true"'),
    "octal serial": (
        "disk: S5GXNX0R123456",
        "disk: 0123456",
        '31: storage.disk: YAML reads 0123456 without quotes as the number 42798; write "0123456"',
    ),
    "digits for a serial": ("disk: S5GXNX0R123456", "disk: 9123456", '31: storage.disk: a text is expected; write "9123456"'),
    "unquoted phone": (
        '"+213 21 12 34 56"',
        "+21321123456",
        '4: contact.practice_phone: YAML reads +21321123456 without quotes as the number 21321123456; write "+21321123456"',
    ),
    "date": (
        "practice: Cabinet Haddad",
        "practice: 2026-11-22",
        '1: practice: YAML reads 2026-11-22 without quotes as a date; write "2026-11-22"',
    ),
    "scientific serial": (
        "disk: S5GXNX0R123456",
        "disk: 5.1e+20",
        '31: storage.disk: YAML reads 5.1e+20 without quotes as a number; write "5.1e+20"',
    ),
    "tab": ("  vendor: Atlas", "\tvendor: Atlas", "5: not YAML: a tab cannot indent; use spaces"),
    "colon in a value": (
        "vendor: Atlas Informatique",
        "vendor: Atlas: Informatique",
        "5: not YAML: a value with a colon in it stands in quotes, and keys of one level begin in one column",
    ),
    "unclosed quote": ('"22:30"', '"22:30', "35: not YAML: a quote or bracket that opens here is not closed, or a comma is missing"),
    "unclosed bracket": (
        "management: [192.168.10.0/28]",
        "management: [192.168.10.0/28",
        "16: not YAML: a quote or bracket that opens here is not closed, or a comma is missing",
    ),
    "wrong indentation": ("  vendor: Atlas", "   vendor: Atlas", "5: not YAML: keys of one level begin in one column"),
    "key twice": (
        "timezone: Africa/Algiers",
        "timezone: Africa/Algiers\nhostname: other.haddad.example",
        "9: hostname: stands here twice, first on line 7; keep one",
    ),
    "alias": (
        "database: {name: dossier, owner: dossier}",
        "database: {name: &n dossier, owner: *n}",
        "40: database.owner: an alias is not allowed; write the value out",
    ),
    "tag": (
        "practice: Cabinet Haddad",
        "practice: !!python/name:os.system x",
        "1: practice: the tag !!python/name:os.system is not allowed; write the plain value",
    ),
    "two documents": (
        "timezone: Africa/Algiers",
        "timezone: Africa/Algiers\n---",
        "9: not YAML: one file describes one thing; remove the line ---",
    ),
    "control character": ("Atlas Informatique", "Atlas\x07", "5: the character U+0007 may not stand in YAML; remove it"),
    "unknown time zone": (
        "Africa/Algiers",
        "Africa/Algier",
        '8: timezone: "Africa/Algier" is not a time zone; did you mean Africa/Algiers?',
    ),
    "no such time zone": ("Africa/Algiers", "CET+1 winter", '8: timezone: "CET+1 winter" is not a time zone; one is Africa/Algiers'),
    "short host name": (
        "hostname: practice.haddad.example",
        "hostname: practice",
        '7: hostname: "practice" is not a full name in small letters, such as practice.haddad.example',
    ),
    "capitals in a host name": (
        "hostname: practice.haddad.example",
        "hostname: Practice.Haddad.example",
        '7: hostname: "Practice.Haddad.example" is not a full name in small letters, such as practice.haddad.example',
    ),
    "no network with the address": (
        "address: 192.168.10.5/24",
        "address: 192.168.10.5",
        "14: network.lan.address: 192.168.10.5/32 says nothing about the network; write the address with its length, "
        "such as 192.168.10.5/24",
    ),
    "network instead of an address": (
        "address: 192.168.10.5/24",
        "address: 192.168.10.0/24",
        "14: network.lan.address: 192.168.10.0 belongs to the network 192.168.10.0/24 as a whole; the first address in "
        "it is 192.168.10.1",
    ),
    "not an address": (
        "address: 192.168.10.5/24",
        "address: 192.168.10.555/24",
        '14: network.lan.address: "192.168.10.555/24" is not an IPv4 address with its network, such as 192.168.10.5/24',
    ),
    "v4 where v6 belongs": (
        '"fd12::5/64"',
        "192.168.10.6/24",
        '15: network.lan.address6: "192.168.10.6/24" is not an IPv6 address with its network, such as fd12:3456:789a::5/64',
    ),
    "address instead of a network": (
        "[192.168.10.0/28]",
        "[192.168.10.5/28]",
        "16: network.management[0]: 192.168.10.5/28 is an address within a network; the network is 192.168.10.0/28",
    ),
    "ssh for everyone": (
        "[192.168.10.0/28]",
        "[192.168.10.0/28, 0.0.0.0/0]",
        "16: network.management[1]: 0.0.0.0/0 is everyone; name the networks that are meant",
    ),
    "resolver by name": (
        "[192.168.10.1]",
        "[dns.example]",
        '17: network.resolvers[0]: "dns.example" is not an IP address, such as 192.168.10.1',
    ),
    "connect to an impossible address": (
        "host: 192.168.10.5",
        "host: 192.168.10.555",
        '9: connect.host: "192.168.10.555" is not an IP address, such as 192.168.10.5',
    ),
    "port out of range": (
        "host: 192.168.10.5",
        "port: 70000, host: 192.168.10.5",
        "9: connect.port: 70000 is too much; at most 65535 makes sense",
    ),
    "interface name with a space": (
        "interface: enp2s0",
        "interface: LAN port",
        '13: network.lan.interface: "LAN port" is not the name of a network interface, such as enp1s0',
    ),
    "published to the Internet": (
        "ssh: [management]",
        "https: [internet]",
        "19: network.published.https[0]: nothing is published to the Internet; from there the way in is the vpn",
    ),
    "published to nobody known": (
        "ssh: [management]",
        "https: [lann]",
        '19: network.published.https[0]: "lann" is not known; did you mean lan?',
    ),
    "technician locked out": (
        "ssh: [management]",
        "ssh: [lan]",
        "19: network.published.ssh: management is missing; without it nobody could look after the server",
    ),
    "two people with one name": (
        "name: karim",
        "name: amina",
        "25: people[1].name: two people are called amina; each needs a name of their own",
    ),
    "two people with one key": (
        KARIM,
        f"{AMINA} too",
        "28: people[1].keys[0]: this key is amina's already; each key is listed once, for one person",
    ),
    "name of the system": (
        "name: amina",
        "name: postgres",
        '21: people[0].name: "postgres" is an account of the system; choose another name',
    ),
    "name with a capital": (
        "name: amina",
        "name: Amina",
        '21: people[0].name: "Amina" is not a log-in name: at most 31 small letters, digits, - and _, a letter first',
    ),
    "unknown profile": (
        "profile: technician",
        "profile: admin",
        '27: people[1].profile: "admin" is not known; known here: doctor, secretary, nurse, billing, administrator, technician',
    ),
    "nobody administers": (
        "profile: technician",
        "profile: nurse",
        "20: people: nobody may administer the server; somebody needs a key and the profile administrator or technician",
    ),
    "no key": (f"    keys: [{AMINA}]\n", "", "21: people[0].keys: amina may log in but has no key; add one, or write login: false"),
    "not a key": (
        AMINA,
        "amina.pub",
        "24: people[0].keys[0]: not a public key; write the one line of a .pub file, such as: ssh-ed25519 AAAA… name",
    ),
    "cut key": (
        AMINA,
        AMINA[:-20],
        "24: people[0].keys[0]: the ssh-ed25519 key is damaged: its second word is not whole; copy the .pub file's line again",
    ),
    "key with options": (
        f"[{AMINA}]",
        f"['restrict {AMINA}']",
        "24: people[0].keys[0]: begins with restrict; a public key begins with ssh-ed25519, "
        "sk-ssh-ed25519@openssh.com, ssh-rsa, without options before it",
    ),
    "ecdsa key": (
        AMINA,
        "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTY=",
        "24: people[0].keys[0]: ecdsa-sha2-nistp256 keys are not accepted; make one with: ssh-keygen -t ed25519",
    ),
    "short RSA key": (
        AMINA,
        RSA_2048,
        "24: people[0].keys[0]: an RSA key of 2048 bits is too short; at least 3072, or make one with: ssh-keygen -t ed25519",
    ),
    "mislabelled key": (
        AMINA,
        MISLABELLED,
        "24: people[0].keys[0]: says ssh-ed25519, but its second word holds a ssh-rsa key; copy the .pub file's line again",
    ),
    "private key": (
        f"[{AMINA}]",
        '["-----BEGIN OPENSSH ' 'PRIVATE KEY-----"]',
        "24: people[0].keys[0]: this is a private key; take it out of the file, make a new one, and write the line of "
        "its .pub file here",
    ),
    "key of the VM": (
        AMINA,
        '"state:amina"',
        "24: people[0].keys[0]: state:amina works in clinics/vagrant.yaml alone; write the line of the person's .pub file",
    ),
    "disk named twice": (
        "disk: WD-WX12A3456789",
        "disk: S5GXNX0R123456",
        "33: backup.disk: S5GXNX0R123456 is the data disk already (storage.disk); backups need a disk of their own",
    ),
    "wipe of another disk": (
        "disk: S5GXNX0R123456",
        "disk: S5GXNX0R123456\n  wipe: WD-WX12A3456789",
        "32: storage.wipe: WD-WX12A3456789 is not the disk above; write S5GXNX0R123456 to have it wiped, or take the line out",
    ),
    "mirror on the disk itself": (
        "disk: S5GXNX0R123456",
        "disk: S5GXNX0R123456\n  mirror: {disk: S5GXNX0R123456}",
        "32: storage.mirror.disk: S5GXNX0R123456 is the data disk itself (storage.disk); a mirror is a second disk",
    ),
    "backup on the mirror": (
        "disk: S5GXNX0R123456",
        "disk: S5GXNX0R123456\n  mirror: {disk: WD-WX12A3456789}",
        "34: backup.disk: WD-WX12A3456789 is the data disk already (storage.mirror.disk); backups need a disk of their own",
    ),
    "mirror wipes the data disk": (
        "disk: S5GXNX0R123456",
        "disk: S5GXNX0R123456\n  mirror: {disk: S5GXNX0R654321, wipe: S5GXNX0R123456}",
        "32: storage.mirror.wipe: S5GXNX0R123456 is not the disk above; write S5GXNX0R654321 to have it wiped, or take the line out",
    ),
    "mirror without a section": (
        "disk: S5GXNX0R123456",
        "disk: S5GXNX0R123456\n  mirror: S5GXNX0R654321",
        "32: storage.mirror: keys with values are expected here, indented, one per line",
    ),
    "device instead of a serial": (
        "disk: S5GXNX0R123456",
        "disk: /dev/sda",
        '31: storage.disk: "/dev/sda" is not the serial number of a disk, as `lsblk -d -o NAME,SIZE,SERIAL` shows it',
    ),
    "unlock of later": (
        "disk: S5GXNX0R123456",
        "disk: S5GXNX0R123456\n  unlock: tpm2+pin",
        "32: storage.unlock: tpm2+pin comes with a later release; today it is tpm2 or passphrase",
    ),
    "unknown unlock": (
        "disk: S5GXNX0R123456",
        "disk: S5GXNX0R123456\n  unlock: tpm",
        '32: storage.unlock: "tpm" is not known; did you mean tpm2?',
    ),
    "history too short": ("keep_days: 35", "keep_days: 7", "36: backup.keep_days: 7 is too little; at least 30 is needed"),
    "alarm too late": ("keep_days: 35", "max_age_hours: 720", "36: backup.max_age_hours: 720 is too much; at most 72 makes sense"),
    "impossible time": ('"22:30"', '"24:30"', '35: backup.differential: "24:30" is not a time of day, such as "22:30"'),
    "day in full": (
        '"Sun 01:30"',
        '"Sunday 01:30"',
        '34: backup.full: "Sunday 01:30" is not a day and a time, such as "Sun 01:30" (Mon Tue Wed Thu Fri Sat Sun)',
    ),
    "application elsewhere": (
        "http://127.0.0.1:8080",
        "http://192.168.10.9:8080",
        '39: proxy.upstream: "http://192.168.10.9:8080" is not an application on this server, such as http://127.0.0.1:8080',
    ),
    "relative path": (
        "names: [practice.haddad.example]",
        "names: [practice.haddad.example]\n  certificate: {chain: practice.pem, key: /nowhere/practice.key}",
        "39: proxy.certificate.chain: practice.pem is relative; write the whole path on the technician's machine\n"
        "alger.yaml:39: proxy.certificate.key: /nowhere/practice.key is not a file on this machine; write where it lies",
    ),
    "database of PostgreSQL": (
        "name: dossier",
        "name: postgres",
        '40: database.name: "postgres" is not a name for PostgreSQL: small letters, digits and _, and none that it uses itself',
    ),
    "database owner is a person": (
        "owner: dossier",
        "owner: amina",
        "40: database.owner: amina is a person; the application's role needs a name of its own",
    ),
    "device of who left": ("person: karim", "person: nadia", '49: vpn.peers[1].person: "nadia" is not in people; take this device out'),
    "device of who is misspelt": (
        "person: karim",
        "person: karin",
        '49: vpn.peers[1].person: "karin" is not in people; did you mean karim?',
    ),
    "one address for two devices": (
        "10.71.0.2",
        "10.71.0.1",
        "49: vpn.peers[1].address: this one is amina-phone's already; each device needs one of its own",
    ),
    "one key for two devices": (
        LAPTOP,
        PHONE,
        "49: vpn.peers[1].public_key: this one is amina-phone's already; each device needs one of its own",
    ),
    "one device twice": (
        "person: karim, device: laptop",
        "person: amina, device: phone",
        "49: vpn.peers[1].device: this one is amina-phone's already; each device needs one of its own",
    ),
    "device with an address elsewhere": (
        "10.71.0.2",
        "10.72.0.2",
        "49: vpn.peers[1].address: 10.72.0.2 is no device's address in 10.71.0.0/24 (vpn.network)",
    ),
    "device with the network's own number": (
        "10.71.0.2",
        "10.71.0.0",
        "49: vpn.peers[1].address: 10.71.0.0 is no device's address in 10.71.0.0/24 (vpn.network)",
    ),
    "device with a space in its name": (
        "device: phone",
        "device: Amina's phone",
        '48: vpn.peers[0].device: "Amina\'s phone" is not the name of a device: small letters, digits and -, such as phone',
    ),
    "cut key of a device": (
        PHONE,
        PHONE[:-5],
        "48: vpn.peers[0].public_key: not a WireGuard public key; write the 44 characters that WireGuard on the device shows",
    ),
    "key of a device of the VM": (
        PHONE,
        '"state:amina-phone"',
        "48: vpn.peers[0].public_key: state:amina-phone works in clinics/vagrant.yaml alone; write the public key that the device shows",
    ),
    "VPN in the range of the management": (
        "[192.168.10.0/28]",
        "[192.168.10.0/28, 10.71.0.0/16]",
        "46: vpn.network: 10.71.0.0/24 overlaps 10.71.0.0/16 (network); take a range that nothing else uses",
    ),
    "VPN in a range of the Internet": (
        "network: 10.71.0.0/24",
        "network: 9.9.9.0/24",
        "46: vpn.network: 9.9.9.0/24 is no range of one's own with room for devices; one is 10.71.0.0/24",
    ),
    "VPN that leads nowhere": (
        "    ssh: [management]",
        "    ssh: [management]\n    https: [lan]\n    http: [lan]",
        "46: vpn: nothing is published to it; add vpn to network.published.https, or take this section out",
    ),
    "no mail address": (
        "to: [garde@haddad.example]",
        "to: [garde at haddad.example]",
        '42: alarm.mail.to[0]: "garde at haddad.example" is not a mail address, such as garde@haddad.example',
    ),
    "alarms for nobody": ("to: [garde@haddad.example]", "to: []", "42: alarm.mail.to: at least one is needed"),
    "alarms from nobody": ("sender: server@haddad.example, ", "", "42: alarm.mail.sender: is missing; for example: server@haddad.example"),
    "mail server that is none": (
        "host: mail.haddad.example",
        "host: smtp://mail.haddad.example",
        '42: alarm.mail.host: "smtp://mail.haddad.example" is not an IP address, such as 192.168.10.5',
    ),
    "mail at a port that is none": ("port: 587", "port: 0", "42: alarm.mail.port: 0 is too little; at least 1 is needed"),
    "mail without encryption": (
        "port: 587",
        "encryption: none",
        "42: alarm.mail.encryption: mail goes out encrypted or not at all",
    ),
    "mail at the other port": (
        "port: 587",
        "port: 465",
        "42: alarm.mail.encryption: port 465 speaks TLS from the start; write encryption: tls",
    ),
    "password among the keys": (
        "port: 587",
        "password: hunter2",
        "42: alarm.mail.password: unknown key; known here: to, sender, host, port, encryption, login",
    ),
    "password instead of its file": (
        "port: 587",
        "login: {user: server, password_file: hunter2}",
        "42: alarm.mail.login.password_file: is not the whole path of a file on the technician's machine; no secret stands in a clinic "
        "file itself",
    ),
    "password in a file that is not there": (
        "port: 587",
        "login: {user: server, password_file: /nowhere/password}",
        "42: alarm.mail.login.password_file: /nowhere/password is not a file on this machine; write where it lies",
    ),
    "password in a file of other things": (
        "port: 587",
        "login: {user: server, password_file: /etc/os-release}",
        "42: alarm.mail.login.password_file: /etc/os-release does not hold a password, alone on its only line",
    ),
    "password of the VM": (
        "port: 587",
        "login: {user: server, password_file: 'state:post-password'}",
        "42: alarm.mail.login.password_file: is not the whole path of a file on the technician's machine; no secret stands in a clinic "
        "file itself",
    ),
    "webhook in plain text": (
        "https://alarms.example/haddad",
        "http://alarms.example/haddad",
        '43: alarm.webhook.url: "http://alarms.example/haddad" does not begin with https://; alarms go out encrypted or not at all',
    ),
    "webhook that is no address": (
        "https://alarms.example/haddad",
        "https://alarms.example:port/haddad",
        '43: alarm.webhook.url: "https://alarms.example:port/haddad" is not a web address, such as https://alarms.example/practice',
    ),
    "header that is none": (
        "https://alarms.example/haddad",
        "https://alarms.example/haddad, header_file: /etc/os-release",
        "43: alarm.webhook.header_file: /etc/os-release does not hold one line such as Authorization: Bearer …",
    ),
    "authority that is none": (
        "https://alarms.example/haddad}",
        "https://alarms.example/haddad}\n  authority: /etc/os-release",
        "44: alarm.authority: /etc/os-release does not hold a certificate in PEM",
    ),
    "alarms without a way": (
        GOOD[GOOD.index("alarm:") : GOOD.index("vpn:")],
        "alarm: {}\n",
        "41: alarm: names nobody; it needs mail, webhook, or both",
    ),
    "media for a day that is none": (
        "vpn:\n",
        "media: {days: [lundi, tuesday]}\nvpn:\n",
        '44: media.days[0]: "lundi" is not known; known here: monday, tuesday, wednesday, thursday, friday, saturday, sunday',
    ),
    "two media for one day": (
        "vpn:\n",
        "media: {days: [monday, tuesday, monday]}\nvpn:\n",
        "44: media.days[2]: monday stands here twice; each day has one medium",
    ),
    "media for no day": (
        "vpn:\n",
        "media: {days: []}\nvpn:\n",
        "44: media.days: at least one is needed",
    ),
    "media without their days": (
        "vpn:\n",
        "media: {}\nvpn:\n",
        "44: media.days: is missing; for example: [monday, tuesday, wednesday, thursday, friday]",
    ),
    "copy outside without its password": (
        "vpn:\n",
        "offsite: {host: vault.example, account: haddad}\nvpn:\n",
        "44: offsite.password_file: is missing; for example: ~/secrets/alger-offsite",
    ),
    "copy outside with the password itself": (
        "vpn:\n",
        "offsite: {host: vault.example, account: haddad, password_file: hunter2hunter2hunter2}\nvpn:\n",
        "44: offsite.password_file: is not the whole path of a file on the technician's machine; no secret stands in a clinic file itself",
    ),
    "copy outside with a password that is none": (
        "vpn:\n",
        "offsite: {host: vault.example, account: haddad, password_file: /etc/os-release}\nvpn:\n",
        "44: offsite.password_file: /etc/os-release does not hold a password of at least 20 characters, alone on its only line",
    ),
    "copy outside to an address of the web": (
        "vpn:\n",
        "offsite: {host: 'https://vault.example', account: haddad, password_file: /nowhere/password}\nvpn:\n",
        '44: offsite.host: "https://vault.example" is not an IP address, such as 192.168.10.5\n'
        "alger.yaml:44: offsite.password_file: /nowhere/password is not a file on this machine; write where it lies",
    ),
    "copy outside under a name that means something else": (
        "vpn:\n",
        "offsite: {host: vault.example, account: data, password_file: /nowhere/password}\nvpn:\n",
        '44: offsite.account: "data" means something else to a rest-server; choose another name\n'
        "alger.yaml:44: offsite.password_file: /nowhere/password is not a file on this machine; write where it lies",
    ),
    "copy outside that may be older than anybody notices": (
        "vpn:\n",
        "offsite: {host: vault.example, account: haddad, password_file: /nowhere/password, max_age_minutes: 10000}\nvpn:\n",
        "44: offsite.password_file: /nowhere/password is not a file on this machine; write where it lies\n"
        "alger.yaml:44: offsite.max_age_minutes: 10000 is too much; at most 4320 makes sense",
    ),
}
