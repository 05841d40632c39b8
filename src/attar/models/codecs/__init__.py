"""Images to codes and back: pixels, patch PCA, patch DCT, pretrained autoencoders, and resampling around them."""
