"""Models without their weights: geometry, random initialisation, rehearsals."""
