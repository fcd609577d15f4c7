"""Files, folders and stores that are whole or not there; a folder that one process writes to."""

from influencekit._files.folder import Files, Folder, Memory, MovedError
from influencekit._files.kept_folder import claim, in_the_way, keep_out_of_stores, unmade
from influencekit._files.new_store import NewStore, check_result, save_zarr
from influencekit._files.open_folder import hold, is_held
from influencekit._files.publishing import publish
from influencekit._files.scratch import sweep, whole

__all__ = [
    "Files", "Folder", "Memory", "MovedError", "NewStore", "check_result", "claim", "hold",
    "in_the_way", "is_held", "keep_out_of_stores", "publish", "save_zarr", "sweep", "unmade", "whole",
]  # fmt: skip
