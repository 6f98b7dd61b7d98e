"""What `kastor check` shows: token preview, throughput, report."""
