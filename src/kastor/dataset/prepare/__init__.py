"""`kastor prepare`: media and rows changed so that they pass the gate."""
