"""From encoded images to encoder inputs: decoding, preprocessing, random crops and affine maps."""
