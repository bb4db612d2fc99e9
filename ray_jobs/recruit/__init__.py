"""The work of `minibert recruit`: a module for each of its commands, and the server's."""
