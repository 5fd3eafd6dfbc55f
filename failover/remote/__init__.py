"""How a controller talks to the small agent on a database host: SSH with a forced command and a fixed verb grammar."""
