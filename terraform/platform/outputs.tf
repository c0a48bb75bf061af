# What people and ../../charts/cluster are told. ../environment asks AWS instead, by name, so that it
# never reads this state.

output "cluster_name" {
  description = "For `aws eks update-kubeconfig --name`."
  value       = aws_eks_cluster.this.name
}

output "helm_values" {
  description = "What only AWS knows, as values of ../../charts/cluster."
  value = yamlencode({
    platform = var.name
    eks = {
      nodeRole          = aws_iam_role.node.name
      subnetTags        = { tier = "private", platform = var.name }
      securityGroupTags = { "aws:eks:cluster-name" = aws_eks_cluster.this.name }
    }
    loadBalancer = {
      certificateArns = [for certificate in aws_acm_certificate_validation.this : certificate.certificate_arn]
      hosts           = var.domains
    }
  })
}
