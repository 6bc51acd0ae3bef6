"""The demonstration behind `./dev demo`: one lab per backend, what a user would want to see proven, a table of it."""
