# Who the pipeline is. GitHub signs a token for each job that says which repository, branch or
# environment it runs for; a role trusts exactly one such subject. There is no key to steal.
#
#   payments-ci-plan             pull requests and main: reads, for plans (-lock=false: it cannot write
#                                a lock) and the nightly drift check
#   payments-ci-publish          the GitHub environment `publish`, which takes main alone: pushes images
#                                and charts
#   payments-ci-apply-<place>    the GitHub environment of that place, which asks for approval
#
# What they may do stands in permissions.tf, what they can never do in boundary.tf.

locals {
  # A place is where a root is applied: the name of a file in ../settings.
  places = merge(
    { for platform in keys(var.platforms) : "platform-${platform}" => {
      root               = "platform"
      name               = platform
      platform           = platform
      github_environment = "platform-${platform}"
    } },
    merge([for platform, p in var.platforms : { for environment in keys(p.hosts) : "environment-${environment}" => {
      root               = "environment"
      name               = environment
      platform           = platform
      github_environment = environment
    } }]...),
  )

  ci_roles = merge(
    {
      plan = {
        boundary = aws_iam_policy.boundary["readers"].arn
        subjects = ["repo:${var.repository}:pull_request", "repo:${var.repository}:ref:refs/heads/main"]
        policies = { read = data.aws_iam_policy_document.read.json, states = data.aws_iam_policy_document.read_states.json }
      }
      publish = {
        boundary = aws_iam_policy.boundary["readers"].arn
        subjects = ["repo:${var.repository}:environment:publish"]
        policies = { publish = data.aws_iam_policy_document.publish.json }
      }
    },
    { for place, p in local.places : "apply-${place}" => {
      boundary = aws_iam_policy.boundary[place].arn
      subjects = ["repo:${var.repository}:environment:${p.github_environment}"]
      policies = {
        read  = data.aws_iam_policy_document.read.json
        write = data.aws_iam_policy_document.write[place].json
        state = data.aws_iam_policy_document.write_state[place].json
      }
    } },
  )

  ci_policies = merge([for role, r in local.ci_roles : {
    for name, json in r.policies : "${role}/${name}" => { role = role, name = name, json = json }
  }]...)
}

resource "aws_iam_openid_connect_provider" "github" {
  url            = "https://token.actions.githubusercontent.com"
  client_id_list = ["sts.amazonaws.com"]
}

resource "aws_iam_role" "ci" {
  for_each = local.ci_roles

  name                 = "payments-ci-${each.key}"
  description          = "GitHub Actions of ${var.repository}: ${each.key}"
  assume_role_policy   = data.aws_iam_policy_document.ci_trust[each.key].json
  permissions_boundary = each.value.boundary
  max_session_duration = 3600 # one hour: a cluster is made in 15 minutes, a Multi-AZ database in 20
}

data "aws_iam_policy_document" "ci_trust" {
  for_each = local.ci_roles

  statement {
    sid     = "OneRepositoryOneSubject"
    actions = ["sts:AssumeRoleWithWebIdentity"]

    principals {
      type        = "Federated"
      identifiers = [aws_iam_openid_connect_provider.github.arn]
    }

    condition {
      test     = "StringEquals"
      variable = "token.actions.githubusercontent.com:aud"
      values   = ["sts.amazonaws.com"]
    }

    condition {
      test     = "StringEquals" # never StringLike: a wildcard here is another repository's way in
      variable = "token.actions.githubusercontent.com:sub"
      values   = each.value.subjects
    }
  }
}

resource "aws_iam_role_policy" "ci" {
  for_each = local.ci_policies

  name   = each.value.name
  role   = aws_iam_role.ci[each.value.role].name
  policy = each.value.json
}
