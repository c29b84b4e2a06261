"""Pictures: grids of images and animations by Pillow, plots by matplotlib."""
