# What identities.tf promises. What the roles may do is decoded in ../../testkit/tests.

mock_provider "aws" {
  source = "./tests/aws"
}

run "a_pods_identity_is_its_namespace_and_service_account" {
  command = plan

  assert {
    condition = { for name, a in aws_eks_pod_identity_association.this : name => [a.namespace, a.service_account] } == {
      app      = ["payments-${var.name}", "payments"]
      migrator = ["payments-${var.name}", "payments-migrator"]
    }
    error_message = "The identities are those of the chart's two service accounts, in this environment's namespace."
  }
}

run "every_role_is_bounded" {
  command = plan

  assert {
    condition     = alltrue([for role in concat(values(aws_iam_role.this), aws_iam_role.backup) : endswith(role.permissions_boundary, ":policy/payments-boundary")])
    error_message = "Every role carries the boundary."
  }
}

run "the_pipeline_deploys_to_its_own_namespace" {
  command = plan

  assert {
    condition     = one(aws_eks_access_policy_association.deploy.access_scope).type == "namespace" && one(aws_eks_access_policy_association.deploy.access_scope).namespaces == toset(["payments-${var.name}"])
    error_message = "The pipeline's role must not reach another environment's namespace."
  }

  assert {
    condition     = aws_eks_access_entry.deploy.principal_arn == "arn:aws:iam::123456789012:role/payments-ci-apply-environment-${var.name}"
    error_message = "It is the role that bootstrap makes for this place."
  }

  assert {
    condition     = aws_eks_access_entry.deploy.kubernetes_groups == toset(["payments-${var.name}-deployers"])
    error_message = "The group that ../../charts/cluster gives rights to is this environment's."
  }
}
