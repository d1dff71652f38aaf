"""EmotiRAM-FAU: emotions from networks that know action units, and the two networks that do."""
