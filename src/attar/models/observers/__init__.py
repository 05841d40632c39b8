"""Networks trained on the real data, which score, align and label what is distilled."""
