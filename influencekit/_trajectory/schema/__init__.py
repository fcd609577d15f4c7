"""What a store must look like before anything of it is allocated, decompressed or believed.

A store may come from anybody. Its root document is read with limits, every attribute and every array has a
type and a range, shapes agree with each other and with the files that are there. Nothing in it is imported
or run.
"""

from influencekit._trajectory.schema.document import MOST_BYTES, parse_document, read_document
from influencekit._trajectory.schema.files import check_chunk, check_content, largest, needed_chunks
from influencekit._trajectory.schema.root import check_document, check_store

__all__ = [
    "MOST_BYTES", "check_chunk", "check_content", "check_document", "check_store", "largest",
    "needed_chunks", "parse_document", "read_document",
]  # fmt: skip
