// SPDX-License-Identifier: Apache-2.0
package org.apache.hadoop.conf;

public class Configuration {}
