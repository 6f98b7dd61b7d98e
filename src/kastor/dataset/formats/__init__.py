"""Reading: files of many formats become typed examples, faults become issues."""
