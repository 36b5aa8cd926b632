"""What a user runs on top of the detector, one room per verb; the detector imports none of it."""
