"""What a distilled set gives away of the images it was made from, as far as it can be measured."""
