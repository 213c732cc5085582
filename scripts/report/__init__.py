"""What results are written and drawn with."""
