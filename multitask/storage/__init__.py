"""Files in a storage, whatever it is: complete or absent, checked when they are read back, waited out when it fails."""
