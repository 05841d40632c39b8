"""Whether networks and settings rank on a distilled set as they rank on all data."""
