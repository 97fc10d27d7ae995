"""Creates, looks at or deletes empty files of a folder, so many at a time: for file systems.

    operations.py create|stat|delete FOLDER COUNT AT_ONCE
"""

import os
import sys
import threading


def create(path):
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))


def main():
    operation, folder, count, at_once = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    act = {"create": create, "stat": os.stat, "delete": os.unlink}[operation]
    failed = []

    def share(first):
        try:
            for number in range(first, count, at_once):
                act(f"{folder}/{number}")
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=share, args=(first,)) for first in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        sys.exit(f"operations: {failed[0]}")


if __name__ == "__main__":
    main()
