"""A clinic's file becomes a server: the roles, in their order. `pyinfra inventory/clinics.py deploy.py --limit NAME`."""

from roles.alarm import alarm
from roles.backup import backed_up, backup
from roles.base import base, stamp
from roles.database import database
from roles.firewall import firewall
from roles.media import media
from roles.offsite import offsite
from roles.proxy import proxy
from roles.recovery import recovery
from roles.ssh import ssh
from roles.storage import storage
from roles.vpn import vpn

base()
storage()  # before anything can write patient data anywhere
recovery()  # whoever brings the keys of an earlier server puts them in place here, before the others make their own
alarm()  # the firewall's rules name its account
offsite()  # so is this one's; what it sends is there a few minutes later
firewall()  # after the packages are here: from now on the way to them leads through the filtering proxy
ssh()
vpn()  # behind the door that asks for two factors
database()
backup(wait=False)  # needs a cluster to back up; the first one is made while the proxy is set up
media()  # what it writes is there by now, but for the first backup
proxy()
backed_up()
stamp()  # last: the revision on a server is one that was carried out to its end
