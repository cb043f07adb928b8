"""The package behind prepare_dataset_sql.py and search_dataset_sql.py; it is internal and has no stable API.

A file passes through `discover`, `audio` (which makes it 48 kHz, mono and 24 bit), `music` (which describes the sound),
`clap` (which computes the vector) and `database` (which stores the row). A broken file goes to `quarantine` instead.
`workers` runs the processes that decode, and `commands` holds all other commands. `search` finds stems in a
finished database. Imports go one way: the scripts, then commands and search, which are independent, then workers, then
duplicates, then clap, music and database, which are independent too, then progress and time_left, then audio, then the
rest.
"""

from pathlib import Path

__version__ = "0.2.0"

PROGRAM_FOLDER = Path(__file__).resolve().parent.parent
