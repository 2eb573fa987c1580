"""recovery: the practice can print all that opens its data, and is told for as long as nobody holds that page.

Claims: KIT-01, KIT-02, KIT-03.  Changes from Debian defaults: qrencode; a list of the keys that belong on the page.
"""

from __future__ import annotations

import json

from pyinfra.api import deploy

from kit import operations as kit
from kit.clinic import this_clinic
from roles.backup import PASSPHRASE
from roles.offsite import LOGIN, PASSWORD
from roles.storage import KEY

PACKAGES = ["qrencode"]

CONFIG = "/etc/cabinet/recovery.json"
# What a technician needs to deploy, try, and hand over; then it is an alarm.
GRACE_HOURS = 48
# What has to be on the page for a copy to count: it opens by these, and by nothing else.
OPENED_BY = {"backup": "B", "offsite": "BCD", "media": "B"}


@deploy("recovery")
def recovery() -> None:
    """Say which keys the kit must hold; `practice recovery-kit` and the watch go by it. No key is read here."""
    parts = {"A": KEY, "B": PASSPHRASE} | ({"C": PASSWORD, "D": LOGIN} if this_clinic().offsite else {})
    kit.config_file(
        name="KIT-01 KIT-02 KIT-03 say what belongs into the recovery kit, what it opens, and when it is missed",
        dest=CONFIG,
        content=json.dumps({"parts": parts, "opened_by": OPENED_BY, "grace_hours": GRACE_HOURS}, indent=1) + "\n",
    )
