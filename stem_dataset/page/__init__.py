"""The page of `search_dataset_sql.py --serve`: find, hear, rate and correct stems in a browser."""
