"""What every process needs: logs, the death of its parent, NDJSON, the record of a running server."""
