# The images: pushed once by the pipeline's role `publish` (ci.tf), then promoted by digest from dev
# to production. The nodes pull with the role of ../platform/cluster.tf. A second region has a copy of
# each, for the loss of the first (docs/infrastructure.md#restore).

locals {
  image_lifecycle = jsonencode({
    rules = [
      {
        # First, because an image that an earlier rule is about is no later rule's: what production
        # runs stays, whatever is pushed after it. By age and not by number, which a
        # role that pushes could fill up.
        rulePriority = 1
        description  = "Releases of ten years ago"
        selection    = { tagStatus = "tagged", tagPrefixList = ["v"], countType = "sinceImagePushed", countUnit = "days", countNumber = 3650 }
        action       = { type = "expire" }
      },
      {
        rulePriority = 2
        description  = "What no tag names any more"
        selection    = { tagStatus = "untagged", countType = "sinceImagePushed", countUnit = "days", countNumber = 7 }
        action       = { type = "expire" }
      },
      {
        # Some 15 MB of own layers each, three manifests a commit: 100 are within 1.5 GB.
        rulePriority = 3
        description  = "All but the last 100"
        selection    = { tagStatus = "any", countType = "imageCountMoreThan", countNumber = 100 }
        action       = { type = "expire" }
      },
    ]
  })
}

resource "aws_ecr_repository" "this" {
  for_each = toset(["payments", "charts/payments"])

  name                 = each.key
  image_tag_mutability = "IMMUTABLE"

  encryption_configuration {
    encryption_type = "KMS"
    kms_key         = aws_kms_key.this.arn
  }

  image_scanning_configuration {
    scan_on_push = true
  }
}

resource "aws_ecr_lifecycle_policy" "this" {
  for_each = aws_ecr_repository.this

  repository = each.value.name
  policy     = local.image_lifecycle
}

resource "aws_ecr_replication_configuration" "this" {
  replication_configuration {
    rule {
      destination {
        region      = var.copy_region
        registry_id = local.account
      }
    }
  }

  depends_on = [aws_ecr_repository_creation_template.copy]
}

# How ECR makes a repository there, when the first image comes; otherwise its tags could be moved and
# nothing in it would end.
resource "aws_ecr_repository_creation_template" "copy" {
  region               = var.copy_region
  prefix               = "ROOT" # any name that no other template is for
  applied_for          = ["REPLICATION"]
  description          = "Copies of the repositories in ${var.region}"
  image_tag_mutability = "IMMUTABLE"
  lifecycle_policy     = local.image_lifecycle

  encryption_configuration {
    encryption_type = "AES256" # one more key would cost more than all the images
  }
}
