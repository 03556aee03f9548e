"""``python validate.pyz BUNDLE`` and ``python -m deploy.device BUNDLE`` start here."""

import sys

NEEDED = (3, 10)


def start() -> int:
    """Run the command; a device without Python 3.10 or numpy gets one line and exit code 2."""
    if sys.version_info < NEEDED:
        sys.stderr.write(f"validate: needs Python {NEEDED[0]}.{NEEDED[1]} or newer\n")
        return 2
    try:
        from .command import main
    except Exception as error:  # noqa: BLE001 - a broken numpy raises more than ImportError
        reason = " ".join(str(error).split())
        sys.stderr.write(
            f"validate: cannot start: {reason}; it needs the packages numpy and onnxruntime: "
            "pip install numpy onnxruntime\n"
        )
        return 2
    return main()


if __name__ == "__main__":
    sys.exit(start())
