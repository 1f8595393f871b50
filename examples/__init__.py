"""A small application that uses `arus` outside the vessel app."""
