"""Values that everybody speaks of: boxes, token layouts, images, decoder layers."""
