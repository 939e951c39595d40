"""What can go wrong with a memory on disk; a caller's own mistakes are ValueErrors."""


class MemoryStoreError(RuntimeError):
    """Base of the others, and what a folder that cannot be opened raises."""


class MemoryLockedError(MemoryStoreError):
    """Another writer holds the folder."""


class MemoryWriteError(MemoryStoreError):
    """A write did not happen, most often for want of room; nothing stored before it is lost."""


class MemoryDamagedError(MemoryStoreError):
    """The truth contradicts itself."""
