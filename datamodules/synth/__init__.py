"""SynthFACS: rendered faces with exact labels and landmarks, and twins in the raw layouts of real datasets."""
