import { Duration, RemovalPolicy, Validations } from 'aws-cdk-lib';
import * as cloudtrail from 'aws-cdk-lib/aws-cloudtrail';
import * as s3 from 'aws-cdk-lib/aws-s3';
import type { Construct } from 'constructs';

/**
 * A trail of the calls that change something in this account and region. It is here because EventBridge is
 * told of such calls, and with them that an account was deleted or disabled, only where a trail logs them.
 * https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-service-event-cloudtrail.html
 */
export function accountTrail(scope: Construct): void {
  const bucket = new s3.Bucket(scope, 'TrailBucket', {
    encryption: s3.BucketEncryption.S3_MANAGED,
    blockPublicAccess: s3.BlockPublicAccess.BLOCK_ALL,
    objectOwnership: s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
    enforceSSL: true,
    versioned: true,
    // As long as the functions' logs: the files name accounts, if only by the pool's own ids for them.
    lifecycleRules: [{ expiration: Duration.days(90), noncurrentVersionExpiration: Duration.days(1) }],
    removalPolicy: RemovalPolicy.RETAIN,
  });
  Validations.of(bucket).acknowledge({
    id: 'AwsSolutions-S1',
    reason:
      'It holds the record of calls itself, which nobody but CloudTrail writes; its digests show whether a file was changed or is missing.',
  });
  new cloudtrail.Trail(scope, 'Trail', {
    trailName: 'carapace',
    bucket,
    managementEvents: cloudtrail.ReadWriteType.WRITE_ONLY,
    enableFileValidation: true,
    // The user pool's own region and nothing else: other regions and IAM are for a trail of the account's.
    isMultiRegionTrail: false,
    includeGlobalServiceEvents: false,
  });
}
