NEWEST: tuple[int, int]
available: bool
