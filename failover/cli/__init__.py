"""The command: it files requests and reads records. The controllers decide, the guardians allow."""
