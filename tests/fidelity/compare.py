#!/usr/bin/env python3
"""Compares two root file systems in tar files, entry by entry.

    tests/fidelity/compare.py OURS THEIRS [--ignore FILE] [--show]

Users and groups are compared by name, as each tree's own /etc/passwd and /etc/group give it: which
number a system user gets depends on the order in which packages are configured. Hard links are compared
by content. Where the order of lines or stanzas has no meaning (NORMAL below), it is not compared. Nor are
times, nor those inside Python's byte code and an initramfs. A line a difference:

    ours PATH                     only in OURS; a link's path is PATH->TARGET, in a pattern either
    theirs PATH                   only in THEIRS; the same
    WHAT PATH: OURS / THEIRS      in both, with another type, mode, owner, target, content, xattrs, device

FILE lists what is expected to differ: a line has one of these words (`any` stands for all of them), a
shell pattern for the path (`*` does not match `/`), and, after `#`, the reason, without which it is an
error. --show also prints how texts differ. Exit status: 0 equal but for what FILE lists; 1 different; 2 usage.
"""
import argparse
import difflib
import fnmatch
import hashlib
import pathlib
import subprocess
import sys
import tarfile
import zlib
from typing import NamedTuple

WORDS = ("ours", "theirs", "type", "mode", "owner", "target", "content", "xattrs", "device")

# Contents of at most so many bytes are kept, for --show.
SHOWN = 1 << 20


class Entry(NamedTuple):
    """What is compared of an entry."""

    type: str
    mode: str = ""
    owner: tuple = ()
    target: str = ""
    content: str = ""
    xattrs: tuple = ()
    device: tuple = ()


def lines(data):
    """Lines without their order."""
    return b"".join(sorted(data.splitlines(keepends=True)))


def accounts(data):
    """passwd(5) without numbers: the user's primary group is in its files' owners, too."""
    fields = [line.split(b":") for line in data.splitlines()]
    return b"\n".join(sorted(b":".join(line[:2] + line[4:]) for line in fields))


def groups(data):
    """group(5) without numbers; members are a set."""
    fields = [line.split(b":") for line in data.splitlines()]
    return b"\n".join(sorted(b":".join([*line[:2], b",".join(sorted(b":".join(line[3:]).split(b",")))]) for line in fields))


def ranges(data):
    """subuid(5) without the numbers."""
    return b"\n".join(sorted(line.split(b":")[0] for line in data.splitlines()))


def stanzas(data):
    """A file of stanzas without their order."""
    return b"\n\n".join(sorted(stanza.strip(b"\n") for stanza in data.split(b"\n\n") if stanza.strip()))


# Files whose order has no meaning to what reads them, or whose numbers are compared through names.
NORMAL = {
    "etc/passwd": accounts,
    "etc/passwd-": accounts,
    "etc/group": groups,
    "etc/group-": groups,
    "etc/shadow": lines,
    "etc/shadow-": lines,
    "etc/gshadow": lines,
    "etc/gshadow-": lines,
    "etc/subuid": ranges,
    "etc/subgid": ranges,
    "etc/subuid-": ranges,
    "etc/subgid-": ranges,
    "etc/shells": lines,
    "var/lib/dpkg/status": stanzas,
    "var/lib/dpkg/available": stanzas,
    "var/lib/dpkg/diversions": stanzas,
    "var/lib/dpkg/statoverride": lines,
    "var/lib/dpkg/triggers/File": lines,
}


def byte_code(data):
    """A .pyc file (PEP 552) without its source's time, which it has unless its flags say that it goes by a
    digest of the source."""
    return data[:8] + bytes(4) + data[12:] if data[4:8] == bytes(4) else data


def initramfs(data):
    """An initramfs without its files' times and inodes: cpio archives of format newc, one after another, of
    which the last is compressed (initramfs-tools(7), the kernel's buffer-format document)."""
    found, at = [], 0
    while at < len(data):
        if data[at : at + 4] in (b"\0\0\0\0", b""):
            at += 4
        elif data[at : at + 6] == b"070701":
            fields = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
            _, mode, uid, gid, links, _, size, *_, major, minor, named, _ = fields
            name = data[at + 110 : at + 110 + named - 1]
            start = (at + 110 + named + 3) & ~3
            content = hashlib.sha256(data[start : start + size]).hexdigest()
            found.append(f"{name!r} {mode:o} {uid} {gid} {links} {major} {minor} {content}\n".encode())
            at = (start + size + 3) & ~3
        elif data[at : at + 2] == b"\x1f\x8b":
            data = data[:at] + zlib.decompress(data[at:], 31)
        elif data[at : at + 4] == b"\x28\xb5\x2f\xfd":
            unpacked = subprocess.run(["zstd", "-d"], input=data[at:], stdout=subprocess.PIPE, check=True).stdout
            data = data[:at] + unpacked
        else:
            return data
    return b"".join(found)


def normal(name, data):
    """A file's content without what has no meaning."""
    if name.endswith(".pyc"):
        return byte_code(data)
    if name.startswith("boot/initrd.img"):
        return initramfs(data)
    return NORMAL.get(name, bytes)(data)


class Tree:
    """A tar file's entries, and the contents of its small files."""

    def __init__(self, path):
        self.path = path
        self.entries = {}
        self.texts = {}
        with tarfile.open(path) as tar:
            members = {self.name(member.name): member for member in tar}
            users, groups_ = (self.names(tar, members.get(name)) for name in ("etc/passwd", "etc/group"))
            self.users = users
            for name, member in members.items():
                while member.islnk():
                    member = members[self.name(member.linkname)]
                owner = (users.get(member.uid, member.uid), groups_.get(member.gid, member.gid))
                self.entries[name] = self.entry(tar, name, member, owner)

    @staticmethod
    def name(path):
        return path.removeprefix("./").strip("/") or "."

    @staticmethod
    def names(tar, member):
        """Numbers and the names that a passwd or group file gives them; the first name, as getpwuid(3)."""
        table = {}
        for line in tar.extractfile(member).read().decode().splitlines() if member else []:
            fields = line.split(":")
            if len(fields) > 2 and fields[2].isdigit():
                table.setdefault(int(fields[2]), fields[0])
        return table

    def entry(self, tar, name, member, owner):
        xattrs = {key.removeprefix("SCHILY.xattr."): value for key, value in member.pax_headers.items() if "xattr" in key}
        fields = {"mode": oct(member.mode & 0o7777), "owner": owner, "xattrs": tuple(sorted(xattrs.items()))}
        if member.issym():
            return Entry("link", owner=owner, target=member.linkname)
        if member.isdir():
            return Entry("folder", **fields)
        if not member.isreg():
            return Entry("device", device=(member.type, member.devmajor, member.devminor), **fields)
        data = normal(name, tar.extractfile(member).read())
        if len(data) <= SHOWN:
            self.texts[name] = data
        return Entry("file", content=hashlib.sha256(data).hexdigest(), **fields)


def matches(pattern, path):
    """Whether a shell pattern matches a path, name by name."""
    names, patterns = path.split("/"), pattern.split("/")
    return len(names) == len(patterns) and all(map(fnmatch.fnmatchcase, names, patterns))


class Expected:
    """What is known to differ, and why."""

    def __init__(self, path):
        self.rules = []
        for number, line in enumerate(path.read_text().splitlines(), 1):
            rule, _, reason = line.partition("#")
            if not rule.strip():
                continue
            fields = rule.split()
            if len(fields) != 2 or fields[0] not in (*WORDS, "any") or not reason.strip():
                raise SystemExit(f"{path}:{number}: a line is WORD PATTERN # REASON")
            self.rules.append((*fields, reason.strip()))

    def reason(self, word, path):
        """Why such a difference is expected; none if it is not."""
        for expected, pattern, reason in self.rules:
            named = path if "->" in pattern else path.partition("->")[0]
            if expected in (word, "any") and matches(pattern, named):
                return reason
        return None


class Difference(NamedTuple):
    word: str
    path: str
    ours: object = None
    theirs: object = None

    def __str__(self):
        if self.word in ("ours", "theirs"):
            return f"{self.word} {self.path}"
        if self.word == "content":
            return f"content {self.path}"
        return f"{self.word} {self.path}: {self.ours} / {self.theirs}"


def differences(ours, theirs):
    """All differences of two trees, in the order of their paths."""
    found = []
    for path in sorted(ours.entries.keys() | theirs.entries.keys()):
        one, other = ours.entries.get(path), theirs.entries.get(path)
        if one is None or other is None:
            target = (one or other).target
            name = f"{path}->{target}" if target else path
            found.append(Difference("theirs" if one is None else "ours", name))
            continue
        if one.type != other.type:
            found.append(Difference("type", path, one.type, other.type))
            continue
        for word in WORDS[3:]:
            values = getattr(one, word), getattr(other, word)
            if values[0] != values[1]:
                found.append(Difference(word, path, *values))
    return found


def shown(difference, ours, theirs):
    """How two small texts differ."""
    path = difference.path
    if difference.word != "content" or path not in ours.texts or path not in theirs.texts:
        return ""
    sides = [tree.texts[path] for tree in (ours, theirs)]
    if any(b"\0" in side for side in sides):
        return ""
    sides = [side.decode("utf-8", "backslashreplace").splitlines() for side in sides]
    text = list(difflib.unified_diff(*sides, "ours", "theirs", n=0, lineterm=""))[2:]
    return "".join(f"    {line[:200]}\n" for line in text[:40])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ours", type=pathlib.Path)
    parser.add_argument("theirs", type=pathlib.Path)
    parser.add_argument("--ignore", type=pathlib.Path)
    parser.add_argument("--show", action="store_true")
    arguments = parser.parse_args()
    expected = Expected(arguments.ignore) if arguments.ignore else None
    ours, theirs = Tree(arguments.ours), Tree(arguments.theirs)
    found = differences(ours, theirs)
    left = [one for one in found if not (expected and expected.reason(one.word, one.path))]
    for difference in left:
        print(difference)
        if arguments.show:
            print(shown(difference, ours, theirs), end="")
    print(f"{len(left)} differences, {len(found) - len(left)} expected, {len(ours.entries)} paths", file=sys.stderr)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
