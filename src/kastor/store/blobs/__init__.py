"""Files of jobs and of uploads, and the manifests that prove them."""
