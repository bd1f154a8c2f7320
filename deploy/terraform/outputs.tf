output "api" {
  description = "The console and the API. The certificate is the server's own until you give it yours."
  value       = "https://${aws_instance.server.private_ip}:8443"
}

output "temporal" {
  description = "For perdure-install; temporal.toml is in /var/lib/perdure-server/certificates on the server."
  value       = "${aws_instance.server.private_ip}:7234"
}

output "instances_security_group" {
  description = "Add it to your compute environments."
  value       = aws_security_group.instances.id
}

output "agent_policy_arn" {
  description = "Attach it to the role of your instances."
  value       = aws_iam_policy.agent.arn
}

output "store_bucket" {
  description = "perdure config set store.kind=s3 store.bucket=... store.kms_key=..."
  value       = aws_s3_bucket.store.id
}

output "store_key" {
  value = aws_kms_key.this.arn
}
