import { CfnOutput, Stack } from 'aws-cdk-lib';
import type { Construct } from 'constructs';
import type { Config } from '../config.ts';
import { RustFunction, type RustFunctionProps } from '../rust-function.ts';

/** A function of the control plane. Scenarios may have it die where they want; see `faultDir`. */
export function capabilityFunction(
  scope: Construct,
  id: string,
  config: Config,
  props: Omit<RustFunctionProps, 'lambdaDir'>,
): RustFunction {
  const { faultDir, lambdaDir } = config;
  const environment = { ...props.environment, ...(faultDir !== undefined && { CARAPACE_FAULT_DIR: faultDir }) };
  return new RustFunction(scope, id, { ...props, lambdaDir, environment });
}

/** An output by exactly this name, for the tools that read it. */
export function output(scope: Construct, name: string, value: string): void {
  new CfnOutput(Stack.of(scope), name, { value });
}

/** What tools want to know of each function: its own name and its role's. */
export function outputFunction(scope: Construct, name: string, { fn, role }: RustFunction): void {
  output(scope, `${name}FunctionName`, fn.functionName);
  output(scope, `${name}RoleName`, role.roleName);
}
