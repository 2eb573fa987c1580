"""recovery: the practice can print all that opens its data, and is told for as long as nobody holds that page.

Claims: KIT-01, KIT-02, KIT-03.  Changes from Debian defaults: qrencode; a list of the keys that belong on the page; the clinic file,
which every copy then holds.
"""

from __future__ import annotations

import json

from pyinfra.api import deploy

from kit import operations as kit
from kit.clinic import this_clinic, this_text
from roles.backup import PASSPHRASE
from roles.offsite import LOGIN, PASSWORD
from roles.storage import KEY

PACKAGES = ["qrencode"]

CONFIG = "/etc/cabinet/recovery.json"
CLINIC = "/etc/cabinet/clinic.yaml"
# What a technician needs to deploy, try, and hand over; then it is an alarm.
GRACE_HOURS = 48
# What has to be on the page for a copy to count: it opens by these, and by nothing else.
OPENED_BY = {"backup": "B", "offsite": "BCD", "media": "B"}


@deploy("recovery")
def recovery() -> None:
    """Say which keys the kit must hold; `practice recovery-kit` and the watch go by it. No key is read here.

    What a new server is deployed from lies here as well: the technician's laptop may be gone with the old one.
    """
    parts = {"A": KEY, "B": PASSPHRASE} | ({"C": PASSWORD, "D": LOGIN} if this_clinic().offsite else {})
    kit.config_file(
        name="KIT-01 KIT-02 KIT-03 say what belongs into the recovery kit, what it opens, and when it is missed",
        dest=CONFIG,
        content=json.dumps({"parts": parts, "opened_by": OPENED_BY, "grace_hours": GRACE_HOURS}, indent=1) + "\n",
    )
    kit.config_file(name="OFF-02 MED-01 keep the clinic file where all copies take it", dest=CLINIC, content=this_text(), mode="600")
