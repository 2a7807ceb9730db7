"""Google Cloud: IAM tokens, and the connectors' way to Cloud SQL and AlloyDB."""
