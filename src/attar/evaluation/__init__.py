"""What a distilled set is worth: named protocols, baselines at the same bytes, scorecards."""
