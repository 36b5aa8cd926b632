"""Is a checkpoint whole? torch.load does not look at the checksums in its own files."""

import zipfile


def damage(path: str) -> str:
    """What is wrong with a file of ``torch.save``: "" if it is whole.

    Reads all of it and compares the checksum of every record; nothing is unpickled.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            record = archive.testzip()
    except FileNotFoundError:
        return "it is not there"
    except Exception as error:  # a damaged archive can raise nearly any exception
        return f"it is not a whole file ({error})"
    return f"the checksum of its record {record} is wrong" if record else ""
