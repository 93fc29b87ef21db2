// SPDX-License-Identifier: Apache-2.0
package org.apache.hadoop.fs;

import java.net.URI;

public class Path {
    public native Path makeQualified(URI defaultUri, Path workingDir);
}
