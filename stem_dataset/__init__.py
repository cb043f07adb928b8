"""What prepare_dataset_sql.py stands on. Internal: it has no stable API.

To find your way: a file goes through `discover`, `audio` (bytes to 48 kHz, mono, 24 bit), `music` (what the sound is),
`clap` (its vector) and `database` (its row), or through `quarantine`. `workers` are the processes that do the first
part, `commands` what is not the main story. Imports go one way: script, commands, workers, duplicates, then clap, music
and database, which do not know each other, then audio, then the modules of this folder.
"""

from pathlib import Path

__version__ = "0.2.0"

PROGRAM_FOLDER = Path(__file__).resolve().parent.parent
