"""Print the licence of every package that is installed beside this one, as a page: `make licences`."""

import re
from importlib.metadata import Distribution, distributions

ABOUT = """# Licences of what `make install` installs

On Linux without a GPU, with Python 3.11. `make licences` writes this page, by what each package says of itself: its
licence expression, else its classifiers, else the first line of what it calls its licence.

| package | version | licence |
|---|---|---|"""
OURS = {"llm-edt", "pip"}
OF_CLASSIFIER = "License :: "
SAYS_NOTHING = OF_CLASSIFIER + "OSI Approved"


def name(package: Distribution) -> str:
    return re.sub(r"[-_.]+", "-", package.metadata["Name"]).lower()


def licence(package: Distribution) -> str:
    said, classifiers = package.metadata, package.metadata.get_all("Classifier") or []
    if expression := said.get("License-Expression"):
        return str(expression)
    classifiers = [each for each in classifiers if each.startswith(OF_CLASSIFIER) and each != SAYS_NOTHING]
    named = [each.rsplit(" :: ", 1)[1] for each in classifiers]
    first = (said.get("License") or "").strip().partition("\n")[0]
    return "; ".join(named) or first or "not said"


if __name__ == "__main__":
    installed = {name(package): package for package in distributions() if name(package) not in OURS}
    print(ABOUT)
    for key, package in sorted(installed.items()):
        print(f"| {key} | {package.version} | {licence(package).replace('|', '/')} |")
