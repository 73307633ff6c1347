"""This process's own segment: append, force, state what is forced, go on in a new one after a checkpoint.

    start ....... header, force, folder force, statement
    write ....... batch, force                                         one force, however many records
    state ....... an empty batch, not forced: tells living readers, at once, that what is before it is forced; when it
                  cannot be written, the force before it counts as failed
    rotate ...... force (the last statement is the seal); new segment: header and checkpoint, force, folder force,
                  statement; remove the old, folder force

An OSError of any of these means that this journal writes no more (R5). Not for: deciding what is alive (index.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from syncpoint.ids import Guid, Incarnation
from syncpoint.journal.format import Header, SegmentName, encode_batch
from syncpoint.journal.head import Paths
from syncpoint.ports import Clock, Disk, OpenFile
from syncpoint.records import Record


class SegmentWriter:
    """The file that this process appends to. Used by one thread at a time. Every call may raise OSError."""

    def __init__(self, disk: Disk, clock: Clock, paths: Paths, coordinator: Guid, incarnation: Incarnation) -> None:
        self._disk = disk
        self._clock = clock
        self._paths = paths
        self._coordinator = coordinator
        self.name = SegmentName(incarnation, 1)
        self.size_bytes = 0
        self._forced = 0
        """The offset up to which everything is forced."""
        self._file: OpenFile | None = None

    def __repr__(self) -> str:
        return f"<SegmentWriter {self.name} {self.size_bytes} bytes, {self._forced} forced>"

    def start(self) -> None:
        """Make the first segment."""
        self._file = self._disk.create(self._paths.segment(self.name))
        self._append(self._header())
        self._force()
        self._disk.force_folder(self._paths.segments)
        self.state()

    def write(self, records: Sequence[Record]) -> None:
        """Append records as one batch and force them."""
        self._append(encode_batch(self.name, self.size_bytes, self._forced, records))
        self._force()

    def state(self) -> None:
        """State what is forced, for those who read along; not forced itself, as no restart needs it."""
        self._append(encode_batch(self.name, self.size_bytes, self._forced, ()))

    def rotate(self, alive: Sequence[Record]) -> None:
        """Go on in a new segment that begins with everything alive; the old one goes."""
        self._force()  # the statement that ends it becomes the seal
        old_file, old_path = self._file, self._paths.segment(self.name)
        name = SegmentName(self.name.incarnation, self.name.number + 1)
        self._file, self.name, self.size_bytes, self._forced = self._disk.create(self._paths.segment(name)), name, 0, 0
        header = self._header()
        self._append(header + encode_batch(name, len(header), 0, alive))
        self._force()
        self._disk.force_folder(self._paths.segments)
        self.state()  # before the old one goes: who looks for it must find this one certain
        assert old_file is not None
        old_file.close()
        self._disk.remove(old_path)
        self._disk.force_folder(self._paths.segments)

    def close(self) -> None:
        """Close the file; it stays for whoever takes over."""
        if self._file is not None:
            self._file.close()

    def _header(self) -> bytes:
        return Header(self._coordinator, self.name, self._clock.wall_ms()).to_bytes()

    def _append(self, data: bytes) -> None:
        assert self._file is not None
        self._file.append(data)
        self.size_bytes += len(data)

    def _force(self) -> None:
        assert self._file is not None
        self._file.force()
        self._forced = self.size_bytes
