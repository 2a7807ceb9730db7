"""AWS: tokens for RDS and Aurora DSQL, passwords from Secrets Manager, and what these need."""
