"""Code shared by the features: fields, the resource, problems, paging, idempotency."""
